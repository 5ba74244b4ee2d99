"""Where the values lie: one module a server, imported when it is first used."""
