"""Words that say who somebody is. Classifiers of comments learned to mind them: to steer by that would be to erase people.

Neutral terms only: a slur stays what a signal makes of it. Single words in lower case, as a linear signal knows them.
"""

from __future__ import annotations

from collections.abc import Mapping

IDENTITY_TERMS: Mapping[str, frozenset[str]] = {
    axis: frozenset(terms.split())
    for axis, terms in {
        "gender": """
            woman women man men girl girls boy boys lady ladies gentleman gentlemen guy guys gal gals male males
            female females mother mothers father fathers mom moms mum mums dad dads mama papa mommy daddy daughter
            daughters son sons sister sisters brother brothers wife wives husband husbands aunt aunts uncle uncles
            niece nieces nephew nephews girlfriend girlfriends boyfriend boyfriends bride brides groom grooms
            grandmother grandmothers grandfather grandfathers grandma grandmas grandpa grandpas widow widows widower
            widowers she her hers herself he him his himself they them themself ms mrs mr sir madam feminine masculine
            femininity masculinity feminist feminists feminism womanhood manhood motherhood fatherhood maternal
            paternal transgender transgendered trans transsexual transsexuals transwoman transwomen transman transmen
            cisgender cis nonbinary genderqueer genderfluid agender bigender intersex androgynous gender genders
        """,
        "race": """
            black blacks white whites asian asians african africans american americans latino latinos latina latinas
            latinx hispanic hispanics chicano chicana native natives indigenous aboriginal aboriginals indian indians
            arab arabs arabic arabian jew jews jewish caucasian caucasians european europeans mexican mexicans chinese
            japanese korean koreans vietnamese filipino filipinos filipina thai pakistani pakistanis bangladeshi
            persian persians iranian iranians iraqi iraqis turkish turk turks kurdish kurd kurds russian russians
            polish pole poles german germans french english british irish scottish italian italians greek greeks
            spanish spaniard portuguese cuban cubans haitian haitians jamaican jamaicans puerto rican nigerian
            nigerians somali somalis ethiopian ethiopians kenyan egyptian egyptians moroccan algerian palestinian
            palestinians israeli israelis syrian syrians lebanese saudi afghan afghans hawaiian samoan pacific
            islander islanders inuit romani roma sinti biracial multiracial creole immigrant immigrants migrant
            migrants refugee refugees foreigner foreigners race races racial ethnic ethnicity minority minorities
            brown coloured colored
        """,
        "religion": """
            muslim muslims islam islamic moslem moslems christian christians christianity catholic catholics
            catholicism protestant protestants protestantism evangelical evangelicals baptist baptists methodist
            methodists lutheran lutherans anglican anglicans presbyterian mormon mormons orthodox jew jews jewish
            judaism hindu hindus hinduism buddhist buddhists buddhism sikh sikhs sikhism jain jains shinto taoist
            taoists bahai zoroastrian pagan pagans wiccan wiccans atheist atheists atheism agnostic agnostics secular
            spiritual religious religion religions sunni sunnis shia shias shiite shiites sufi quran koran bible torah
            mosque mosques church churches synagogue synagogues temple temples priest priests rabbi rabbis imam imams
            nun nuns pastor pastors pope allah jesus christ prophet muhammad mohammed moses scientologist
            scientologists unitarian unitarians quaker quakers amish rastafarian rastafari
        """,
        "orientation": """
            gay gays lesbian lesbians homosexual homosexuals homosexuality heterosexual heterosexuals heterosexuality
            bisexual bisexuals bisexuality straight queer queers pansexual pansexuals asexual asexuals aromantic
            demisexual polyamorous lgbt lgbtq lgbtqia sexuality orientation
        """,
        "disability": """
            disabled disability disabilities handicapped blind deaf mute hearing impaired impairment wheelchair
            wheelchairs paraplegic paraplegics quadriplegic quadriplegics paralyzed paralysed amputee amputees
            autistic autism aspergers adhd dyslexic dyslexia epileptic epilepsy bipolar schizophrenic schizophrenia
            depressed depression anxious anxiety ptsd neurodivergent neurodiverse neurotypical chronically ill illness
            cerebral palsy diabetic alzheimer dementia dwarf dwarfs
        """,
        "age": """
            old older elderly senior seniors young younger youth teen teens teenage teenager teenagers adolescent
            adolescents child children kid kids baby babies toddler toddlers adult adults retired retiree retirees
            pensioner pensioners millennial millennials boomer boomers
        """,
    }.items()
}
ALL_IDENTITY_TERMS: frozenset[str] = frozenset().union(*IDENTITY_TERMS.values())
