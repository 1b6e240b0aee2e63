"""Words out of the network: tokens, drafts with blanks, and the sampler that fills them."""
