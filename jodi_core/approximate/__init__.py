"""Extras that trade exactness for speed; off unless asked for."""
