"""What every process tells over HTTP: how it and its dependencies are. Needs the extra ``web``."""
