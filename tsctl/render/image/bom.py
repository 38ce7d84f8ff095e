"""The bill of materials of an image, in CycloneDX: its Python packages, its archives with their digests, and its base.

What the base image itself holds is in that image's own bill.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import NAMESPACE_URL, uuid5

from tsctl import __version__
from tsctl.errors import SpecError
from tsctl.render.image.lock import Package
from tsctl.render.image.selection import Packed

#: Of the document: a time of now would make every rendering another one.
_TIME = datetime(1980, 1, 1, tzinfo=UTC)


def bill_of_materials(
    title: str, base: str, wheel_sha256: str, packages: Sequence[Package], archives: Sequence[Packed]
) -> str:
    """The document in JSON; the same contents give the same text.

    Raises:
        SpecError: the library that writes CycloneDX is not installed.
    """
    try:
        from cyclonedx.contrib.license.factories import LicenseFactory
        from cyclonedx.model import HashAlgorithm, HashType, Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.model.tool import ToolRepository
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
        from packageurl import PackageURL
    except ImportError:
        raise SpecError("cyclonedx-python-lib is not installed", "Run: pip install 'tsctl[images]'") from None

    def sha256(digest: str) -> list[HashType]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]

    licenses = LicenseFactory()
    components = [
        Component(
            type=ComponentType.LIBRARY,
            name=package.name,
            version=package.version,
            bom_ref=f"pypi:{package.name}@{package.version}",
            description=package.summary or None,
            purl=PackageURL("pypi", None, package.name.lower().replace("_", "-"), package.version),
            hashes=sha256(package.sha256),
            licenses=[licenses.make_from_string(package.license)] if package.license else [],
        )
        for package in [*packages, Package("tsctl", __version__, wheel_sha256, "Apache-2.0")]
    ]
    components += [
        Component(
            type=ComponentType.MACHINE_LEARNING_MODEL,
            name=packed.archive.model,
            version=packed.archive.version,
            bom_ref=f"archive:{packed.archive.path.name}",
            hashes=sha256(packed.digest),
            properties=[
                Property(name="tsctl:archive", value=packed.archive.path.name),
                *(Property(name="tsctl:requirement", value=line) for line in packed.facts.serving.requirements),
            ],
        )
        for packed in archives
    ]
    bom = Bom(components=components)
    bom.metadata.timestamp = _TIME
    bom.metadata.tools = ToolRepository(
        components=[Component(type=ComponentType.APPLICATION, name="tsctl", version=__version__, bom_ref="tool:tsctl")]
    )
    bom.metadata.component = Component(
        type=ComponentType.CONTAINER,
        name=title,
        bom_ref="image",
        properties=[Property(name="tsctl:base", value=base)],
    )
    contents = "\n".join(sorted(f"{one.name}@{one.version}" for one in components))
    bom.serial_number = uuid5(NAMESPACE_URL, f"{title}\n{base}\n{contents}")
    bom.register_dependency(bom.metadata.component, components)
    return str(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)) + "\n"
