"""The two-column network of Krizhevsky, Sutskever and Hinton (2012): torch alone."""
