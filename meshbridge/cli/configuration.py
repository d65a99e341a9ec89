"""``meshbridge config``."""

from meshbridge.cli.options import ConfigOption, load_settings
from meshbridge.cli.output import show_json, show_output

__all__ = ["schema", "show"]


def show(config: ConfigOption = None) -> None:
    """Print the settings in force, secrets masked."""
    import yaml

    from meshbridge.config.load import shown

    show_output(yaml.safe_dump(shown(load_settings(config)), sort_keys=False), raw=False)


def schema() -> None:
    """Print the JSON Schema of the configuration."""
    from meshbridge.config.load import Settings

    show_json(Settings.model_json_schema(by_alias=True), indent=2)
