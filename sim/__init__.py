"""Programs that simulate: the sandbox exchange. Nothing imports them."""
