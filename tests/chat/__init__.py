"""Chat formats of public models, and the tokenizer that reads them."""
