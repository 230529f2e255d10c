"""Shared plumbing of vendor libraries, each imported only in the file named for it, when first needed."""
