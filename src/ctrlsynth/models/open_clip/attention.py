"""Self-attention without copies for open_clip's blocks: q, k and v stay views of one product, from the same
weights.

torch's MultiheadAttention copies q, k, v and the output into new layouts in every block, forward and
backward; the attention kernels need neither."""

from types import MethodType
from typing import Any


def use_views(module: Any) -> Any:
    """Gives the plain blocks of an open_clip model the attention below; returns the module. The names and
    values of the weights do not change."""
    from open_clip.transformer import ResidualAttentionBlock
    from torch.nn import MultiheadAttention

    for block in module.modules():
        if type(block) is ResidualAttentionBlock and type(block.attn) is MultiheadAttention:
            attn = block.attn
            extras = attn.dropout != 0 or attn.bias_k is not None or attn.add_zero_attn
            if attn.batch_first and attn.in_proj_weight is not None and not extras:
                block.attention = MethodType(_attention, block)
    return module


def _attention(self: Any, q_x: Any, k_x: Any = None, v_x: Any = None, attn_mask: Any = None) -> Any:
    """Self-attention over [n, length, width] with an additive mask [length, length]; cross-attention is
    open_clip's own."""
    from torch.nn import functional as F

    if k_x is not None or v_x is not None:
        return type(self).attention(self, q_x, k_x, v_x, attn_mask)
    n, length, width = q_x.shape
    heads = self.attn.num_heads
    product = F.linear(q_x, self.attn.in_proj_weight, self.attn.in_proj_bias)
    q, k, v = product.view(n, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    mask = attn_mask.to(q.dtype) if attn_mask is not None else None
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return self.attn.out_proj(seen.transpose(1, 2).reshape(n, length, width))
