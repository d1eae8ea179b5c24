"""Objects in a bucket, and folders on this machine that mirror them."""
