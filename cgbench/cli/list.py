"""``cgbench list``."""

from __future__ import annotations

import click

__all__ = ["command"]


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


@click.command("list")
def command() -> int:
    """List systems, methods and presets.

    A system or method that cannot be imported is listed as BROKEN, with the reason.
    """
    from cgbench.running.configuration import preset_names
    from cgbench.running.registry import plugins

    systems, methods = plugins("system"), plugins("method")
    print("Systems")
    for plugin in systems:
        if plugin.broken is not None:
            print(f"  {plugin.name:<20} BROKEN: {plugin.broken}")
        else:
            engines = ", ".join(plugin.cls.engines)
            print(f"  {plugin.name:<20} {_first_line(plugin.cls)} Engines: {engines}.")
    print("Methods")
    for plugin in methods:
        if plugin.broken is not None:
            print(f"  {plugin.name:<20} BROKEN: {plugin.broken}")
            continue
        print(f"  {plugin.name:<20} {_first_line(plugin.cls)}")
        needs = ", ".join(sorted(plugin.cls.requires)) or "nothing"
        print(f"  {'':<20} needs: {needs}")
        for system in systems:
            if system.broken is None:
                print(f"  {'':<20} presets on {system.name}: {', '.join(preset_names(plugin.cls, system.name))}")
    return 0
