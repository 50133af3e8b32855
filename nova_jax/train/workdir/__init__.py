"""The workdir of a run: who may continue in it, what is noted of it, and what can be told of it afterwards."""
