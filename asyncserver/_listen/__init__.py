"""Where clients come from: addresses, bound sockets, accepting, admission."""
