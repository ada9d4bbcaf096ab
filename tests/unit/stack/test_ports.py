"""Ports of one stack never meet those of another."""

from __future__ import annotations

import socket

import pytest

from esper.errors import UnavailableError
from esper.stack.processes.ports import HOST, PortClaims, is_free


def test_two_stacks_that_choose_before_either_listens_get_different_ports() -> None:
    """A claim holds although no server listens yet."""
    with PortClaims() as one, PortClaims() as other:
        first = one.choose(salt="same", preferred=())
        second = other.choose(salt="same", preferred=(first,))
        assert first != second
        assert is_free(first)


def test_a_port_can_be_claimed_again_once_it_was_given_back() -> None:
    """A restarted stack finds its ports."""
    with PortClaims() as one:
        port = one.choose(salt="again", preferred=())
    with PortClaims() as other:
        assert other.choose(salt="anything", preferred=(port,)) == port


def test_a_port_that_the_user_insists_on_and_another_program_holds_is_named_with_its_holder() -> (
    None
):
    """The sentence has the port, who holds it, and the variable to change."""
    with socket.create_server((HOST, 0)) as holder, PortClaims() as claims:
        port = holder.getsockname()[1]
        with pytest.raises(
            UnavailableError,
            match=rf"port {port} for nissa is in use by .*pid \d+.* set ESPER_NISSA__PORT",
        ):
            claims.require(port, name="nissa", setting="ESPER_NISSA__PORT")


def test_a_taken_well_known_port_is_passed_over() -> None:
    """Without insisting, another port is taken."""
    with socket.create_server((HOST, 0)) as holder, PortClaims() as claims:
        taken = holder.getsockname()[1]
        assert claims.choose(salt="free", preferred=(0, taken)) != taken
