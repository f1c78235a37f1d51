"""A mypy plugin: what `register_buffer` adds to a module has no declared type.

torch's stubs give every undeclared attribute of a Module the type `Tensor | Module`, so that each use of a buffer in
arithmetic is an error. Here such attributes become Any; declared attributes keep their types.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny, UnionType, get_proper_type

MODULE = "torch.nn.modules.module.Module."


def undeclared(context: AttributeContext) -> Type:
    """Any for `Tensor | Module`, the declared type otherwise."""
    kind = get_proper_type(context.default_attr_type)
    return AnyType(TypeOfAny.special_form) if isinstance(kind, UnionType) else context.default_attr_type


class Buffers(Plugin):
    """Looks at the attributes that mypy finds through `Module.__getattr__`."""

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        """Hook for attributes of torch.nn.Module itself."""
        return undeclared if fullname.startswith(MODULE) else None


def plugin(version: str) -> type[Plugin]:
    """Entry point that mypy calls."""
    return Buffers
