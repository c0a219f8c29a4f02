"""What a model loses when its image tokens are cut. One file an evaluation; each returns one JSON-ready dict."""
