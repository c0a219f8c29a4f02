"""Whether fewer image tokens make a model faster on a given device, by arithmetic: ``trimkit.advice.advise.advise``."""
