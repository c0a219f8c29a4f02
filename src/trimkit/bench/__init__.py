"""What fewer image tokens save, in time, memory and FLOPs: ``trimkit.bench.run.bench``. Says nothing about answers."""
