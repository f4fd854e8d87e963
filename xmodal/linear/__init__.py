"""Methods without a network, fitted in closed form."""
from xmodal.linear.cca import LinearCCA
from xmodal.linear.closed_form import ClosedForm
from xmodal.linear.kernel import KernelCCA
from xmodal.linear.pls import PLS, Identity

__all__ = ["PLS", "ClosedForm", "Identity", "KernelCCA", "LinearCCA"]
