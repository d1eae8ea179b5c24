"""The embedding-cache service: encodes once per content, keeps it, hands it out."""
