"""Workers on other machines that take their jobs from a coordinator."""
