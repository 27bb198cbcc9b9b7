"""SQL queries over the schema of a live database: the parts of `grammars.sql`. Only what uses them loads them."""
