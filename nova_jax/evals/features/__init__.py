"""Networks that give features of pictures and clips, and what is told by them: Fréchet distances and others."""
