"""Where trimkit meets the libraries that run models. One file a library."""
