"""``meshbridge config``."""

import json

from meshbridge.cli.options import ConfigOption, load_settings

__all__ = ["schema", "show"]


def show(config: ConfigOption = None) -> None:
    """Print the settings in force, secrets masked."""
    import yaml

    from meshbridge.config.load import shown

    print(yaml.safe_dump(shown(load_settings(config)), sort_keys=False), end="")


def schema() -> None:
    """Print the JSON Schema of the configuration."""
    from meshbridge.config.load import Settings

    print(json.dumps(Settings.model_json_schema(by_alias=True), indent=2))
