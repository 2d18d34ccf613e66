"""How the stand-in for the W&B service answers GraphQL operations, by their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wandb_kept import ENTITY, RemoteArtifact, RemoteRun

if TYPE_CHECKING:
    from wandb_server import WandbServer


def _viewer(service: WandbServer, given: dict[str, Any]) -> Any:
    own = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
    return {"viewer": {**own, "teams": {"edges": []}}}


def _resume_status(service: WandbServer, given: dict[str, Any]) -> Any:
    run = service.runs.get(given["name"])
    if run is None:
        return {"model": None}
    lines = [line for line in run.history if line is not None]
    bucket = {
        "id": run.name,
        "name": run.name,
        "summaryMetrics": json.dumps(run.summary),
        "displayName": run.info.get("displayName"),
        "logLineCount": 0,
        "historyLineCount": len(lines),
        "eventsLineCount": 0,
        "historyTail": json.dumps(lines[-1:]),
        "eventsTail": "[]",
        "config": run.info.get("config"),
        "tags": run.info.get("tags") or [],
        "notes": run.info.get("notes"),
        "wandbConfig": json.dumps({"t": 1}),
    }
    return {"model": {**_project(run), "bucket": bucket}}


def _upsert(service: WandbServer, given: dict[str, Any]) -> Any:
    name = given["name"]
    known = name in service.runs
    if not known:
        entity, project = given.get("entity") or ENTITY, given.get("project") or "uncategorized"
        service.runs[name] = RemoteRun(entity, project, name)
    run = service.runs[name]
    run.sessions += given.get("displayName") is not None
    run.info.update({key: value for key, value in given.items() if value is not None})
    bucket = {
        "id": name,
        "name": name,
        "displayName": run.info.get("displayName") or name,
        "description": None,
        "config": run.info.get("config"),
        "sweepName": None,
        "historyLineCount": len(run.history),
        "project": _project(run),
    }
    return {"upsertBucket": {"bucket": bucket, "inserted": not known}}


def _create_files(service: WandbServer, given: dict[str, Any]) -> Any:
    base = f"{service.url}/upload/run/{given['run']}"
    files = [{"name": name, "uploadUrl": f"{base}/{name}"} for name in given["files"]]
    return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}


def _run_files(service: WandbServer, given: dict[str, Any]) -> Any:
    files = service.runs[given["name"]].files
    nodes = [
        {"node": {"name": name, "sizeBytes": len(files[name])}}
        for name in given["fileNames"]
        if name in files
    ]
    return {"project": {"run": {"files": {"edges": nodes}}}}


def _artifact_type(service: WandbServer, given: dict[str, Any]) -> Any:
    name = given["name"].partition(":")[0]
    found = [item.type for item in service.artifacts if item.name == name]
    kind = {"artifactType": {"name": found[0]}} if found else None
    return {"project": {"artifact": kind}}


def _create_artifact(service: WandbServer, given: dict[str, Any]) -> Any:
    """Make a new version; content the newest version has already makes none."""
    item = given["input"]
    name = item.get("artifactCollectionName") or item["artifactCollectionNames"][0]
    aliases = [alias["alias"] for alias in item.get("aliases") or ()]
    versions = [found for found in service.artifacts if found.name == name]
    if versions and versions[-1].digest == item["digest"] and versions[-1].committed:
        index, state = service.artifacts.index(versions[-1]), "COMMITTED"
    else:
        for version in versions:
            version.aliases[:] = [alias for alias in version.aliases if alias not in aliases]
        service.artifacts.append(
            RemoteArtifact(
                name,
                item["artifactTypeName"],
                aliases,
                item["digest"],
                run=item.get("runName") or "",
                version=len(versions),
                metadata=item.get("metadata") or "{}",
            )
        )
        index, state = len(service.artifacts) - 1, "PENDING"
    artifact = {
        "id": str(index),
        "state": state,
        "versionIndex": len(versions),
        "artifactSequence": {"id": name, "latestArtifact": None},
    }
    return {"createArtifact": {"artifact": artifact}}


def _create_manifest(service: WandbServer, given: dict[str, Any]) -> Any:
    owner = given["artifactID"]
    file = {
        "id": owner,
        "name": given["name"],
        "displayName": given["name"],
        "uploadUrl": f"{service.url}/upload/artifact/{owner}/{given['name']}",
        "uploadHeaders": [],
        "artifact": {"id": owner},
    }
    return {"createArtifactManifest": {"artifactManifest": {"id": owner, "file": file}}}


def _create_artifact_files(service: WandbServer, given: dict[str, Any]) -> Any:
    edges = [
        {
            "node": {
                "id": file["name"],
                "name": file["name"],
                "displayName": file["name"],
                "storagePath": file["name"],
                "uploadUrl": f"{service.url}/upload/artifact/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
        }
        for file in given["input"]["artifactFiles"]
    ]
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def _commit_artifact(service: WandbServer, given: dict[str, Any]) -> Any:
    artifact = service.artifacts[int(given["artifactID"])]
    artifact.committed = True
    return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": artifact.digest}}}


def _artifact_by_id(service: WandbServer, given: dict[str, Any]) -> Any:
    return {"artifact": _artifact(service, int(given["id"]))}


def _artifact(service: WandbServer, index: int) -> dict[str, Any]:
    """Return everything the client wants to know of an artifact."""
    item = service.artifacts[index]
    run = service.runs.get(item.run)
    project = run.project if run else "p"
    where = {"id": project, "internalId": "1", "name": project, "entity": {"name": ENTITY}}
    sequence = {"__typename": "ArtifactSequence", "name": item.name, "project": where}
    return {
        "__typename": "Artifact",
        "id": str(index),
        "artifactSequence": sequence,
        "versionIndex": item.version,
        "artifactType": {"name": item.type},
        "description": None,
        "metadata": item.metadata,
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED",
        "size": sum(map(len, item.files.values())),
        "digest": item.digest,
        "commitHash": "0",
        "fileCount": len(item.files),
        "createdAt": "2026-01-01T00:00:00",
        "updatedAt": None,
        "aliases": [],
    }


def _run(service: WandbServer, given: dict[str, Any]) -> Any:
    run = service.runs.get(given["name"])
    if run is None or (run.entity, run.project) != (given["entity"], given["project"]):
        return {"project": None}
    told = {key: run.info.get(key) for key in ("config", "displayName", "tags", "notes")}
    unknown = ("sweepName", "group", "jobType", "commit", "description", "systemMetrics")
    facts = {
        **dict.fromkeys(unknown),
        **told,
        "id": run.name,
        "name": run.name,
        "projectId": "1",
        "state": "finished",
        "readOnly": False,
        "createdAt": "2026-01-01T00:00:00",
        "heartbeatAt": "2026-01-01T00:00:00",
        "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": len(run.history),
        "user": {"name": ENTITY, "username": ENTITY},
        "historyKeys": None,
    }
    return {"project": {"run": facts}}


def _run_artifacts(service: WandbServer, given: dict[str, Any]) -> Any:
    found = [
        {"node": _artifact(service, index)}
        for index, item in enumerate(service.artifacts)
        if item.committed and item.run == given["run"]
    ]
    page = {"totalCount": len(found), "pageInfo": _LAST_PAGE, "edges": found}
    return {"project": {"run": {"artifacts": page}}}


def _manifest(service: WandbServer, given: dict[str, Any]) -> Any:
    url = f"{service.url}/download/artifact/{given['id']}/{_MANIFEST}"
    return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}


def _file_urls(service: WandbServer, given: dict[str, Any]) -> Any:
    index = next(
        index
        for index, item in enumerate(service.artifacts)
        if (item.name, f"v{item.version}") == (given["collection"], given["alias"])
    )
    base = f"{service.url}/download/artifact/{index}"
    files = [
        {"node": {"__typename": "File", "name": name, "directUrl": f"{base}/{quote(name)}"}}
        for name in service.artifacts[index].files
        if name != _MANIFEST
    ]
    membership = {"files": {"pageInfo": _LAST_PAGE, "edges": files}}
    collection = {"__typename": "ArtifactSequence", "artifactMembership": membership}
    return {"project": {"artifactCollection": collection}}


def _project(run: RemoteRun) -> dict[str, Any]:
    entity = {"id": run.entity, "name": run.entity}
    return {"id": run.project, "name": run.project, "entity": entity}


_MANIFEST = "wandb_manifest.json"
_LAST_PAGE = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
ANSWERS: dict[str, Callable[[WandbServer, dict[str, Any]], Any]] = {
    "Viewer": _viewer,
    "GetDefaultEntity": _viewer,
    "RunResumeStatus": _resume_status,
    "UpsertBucket": _upsert,
    "CreateRunFiles": _create_files,
    "RunFiles": _run_files,
    "ArtifactType": _artifact_type,
    "CreateArtifact": _create_artifact,
    "CreateArtifactManifest": _create_manifest,
    "CreateArtifactFiles": _create_artifact_files,
    "CommitArtifact": _commit_artifact,
    "ArtifactByID": _artifact_by_id,
    "Run": _run,
    "RunOutputArtifacts": _run_artifacts,
    "FetchArtifactManifest": _manifest,
    "GetArtifactMembershipFileUrls": _file_urls,
    "FetchArtifactDigestAlgorithm": lambda *_: {"project": None},
    "ServerFeaturesQuery": lambda *_: {"serverInfo": {"features": []}},
}
