"""What is configured through the API: documents, versions, and how the data plane learns of them."""
