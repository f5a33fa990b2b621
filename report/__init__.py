"""Turns the executed notebooks of one profile into a page and two books."""
