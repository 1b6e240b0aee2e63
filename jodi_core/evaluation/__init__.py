"""Quality measured on scenes whose labels are exact."""
