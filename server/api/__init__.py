"""HTTP: who may do what, and in which form it is answered. Nothing else of `server` knows of HTTP."""
