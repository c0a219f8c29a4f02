"""How fast reduction makes a model, measured on random weights: structure and speed, nothing about answers."""
