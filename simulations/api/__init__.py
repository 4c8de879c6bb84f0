"""The front door for Python; `fedlearn` names what is public of it."""
