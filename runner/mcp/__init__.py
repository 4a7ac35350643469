"""Model Context Protocol: servers that this program speaks to. So far only on the host, for permission questions."""
