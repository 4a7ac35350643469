"""MCP servers. So far those that the command line places on the host, to answer permission questions."""
