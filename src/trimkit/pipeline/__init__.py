"""One request, picture and question, becomes one ``ReducedInputs``. Nothing here calls ``generate`` or ``forward``."""
