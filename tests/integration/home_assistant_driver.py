"""Runs a real Home Assistant, by the Python of an environment that has it: commands come as lines of JSON.

``home_assistant_driver.py DIRECTORY``; the directory holds configuration.yaml and .storage. Each line of standard
input is ``[name, argument, …]``, each line of standard output its answer.
"""

import asyncio
import json
import sys
from typing import Any

from homeassistant import bootstrap, runner  # type: ignore[import-not-found]
from homeassistant.helpers import device_registry, entity_registry  # type: ignore[import-not-found]


async def main(directory: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    # What it brings beside MQTT needs many more packages.
    bootstrap.DEFAULT_INTEGRATIONS, bootstrap.CRITICAL_INTEGRATIONS = {"logger"}, set()
    hass = await bootstrap.async_setup_hass(runner.RuntimeConfig(config_dir=directory, skip_pip=True))
    await hass.async_start()

    def states() -> dict[str, Any]:
        """By the names of device and entity: (state, entity id)."""
        devices = device_registry.async_get(hass).devices
        found: dict[str, dict[str, Any]] = {}
        for entity in entity_registry.async_get(hass).entities.values():
            if entity.platform == "mqtt" and entity.device_id in devices:
                state = hass.states.get(entity.entity_id)
                shown = None if state is None else state.state
                found.setdefault(devices[entity.device_id].name, {})[entity.original_name] = [shown, entity.entity_id]
        return found

    async def call(domain: str, service: str, entity_id: str) -> None:
        await hass.services.async_call(domain, service, {"entity_id": entity_id}, blocking=True)

    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, *arguments = json.loads(line)
        if name == "call":
            await call(*arguments)
        print(json.dumps(states()), file=answers, flush=True)
    await hass.async_stop(force=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
