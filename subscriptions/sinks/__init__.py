"""Where events can go without a line of handler code: ``subscription.to(sink)``. Deletions reach every sink."""
