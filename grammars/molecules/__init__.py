"""The inside of `grammars/smiles.py`: a folder of its own so that partialsmiles and RDKit are loaded only when needed."""
