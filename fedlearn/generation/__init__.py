"""A trained language model at work: it goes on with what it is asked, token by token."""
