"""What speaks to upstreams: one file for each family, all answering in the words of OpenAI."""
