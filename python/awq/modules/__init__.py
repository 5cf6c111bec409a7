"""Names that other packages import from a module called awq. Nothing here is loaded unless it is asked for."""
