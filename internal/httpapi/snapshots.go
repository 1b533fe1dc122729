package httpapi

import (
	"io"
	"net/http"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

func (h *handler) SuspendSandbox(w http.ResponseWriter, r *http.Request, name apiv1.Name) {
	rec, err := h.Manager.Suspend(r.Context(), name)
	h.sandbox(w, r, http.StatusOK, rec, err)
}

func (h *handler) ResumeSandbox(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.ResumeSandboxParams) {
	timeout, err := milliseconds(params.TimeoutMs, 120_000, 1)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	rec, err := h.Manager.Resume(r.Context(), name, timeout)
	h.sandbox(w, r, http.StatusOK, rec, err)
}

func (h *handler) ForkSandbox(w http.ResponseWriter, r *http.Request, name apiv1.Name) {
	var req apiv1.ForkRequest
	if err := decode(io.LimitReader(r.Body, maxBody), &req); err != nil {
		h.fail(w, r, err)
		return
	}
	timeout, err := milliseconds(req.TimeoutMs, 120_000, 1)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	records, err := h.Manager.Fork(r.Context(), name, or(req.Name, ""), or(req.Count, 1), timeout)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	list := apiv1.SandboxList{Sandboxes: make([]apiv1.Sandbox, 0, len(records))}
	for _, rec := range records {
		list.Sandboxes = append(list.Sandboxes, view(rec))
	}
	h.reply(w, r, http.StatusCreated, list)
}

func (h *handler) CreateSnapshot(w http.ResponseWriter, r *http.Request, name apiv1.Name) {
	var req apiv1.CreateSnapshotRequest
	if err := decode(io.LimitReader(r.Body, maxBody), &req); err != nil {
		h.fail(w, r, err)
		return
	}
	mf, err := h.Manager.CreateSnapshot(r.Context(), name, or(req.Tag, ""))
	h.snapshot(w, r, http.StatusCreated, mf, err)
}

func (h *handler) ListSnapshots(w http.ResponseWriter, r *http.Request) {
	manifests, problems := h.Manager.Snapshots()
	list := apiv1.SnapshotList{Snapshots: make([]apiv1.Snapshot, 0, len(manifests)), Problems: optional(problems)}
	for _, mf := range manifests {
		list.Snapshots = append(list.Snapshots, h.viewSnapshot(mf))
	}
	h.reply(w, r, http.StatusOK, list)
}

func (h *handler) GetSnapshot(w http.ResponseWriter, r *http.Request, ref string) {
	mf, err := h.Manager.Snapshot(ref)
	h.snapshot(w, r, http.StatusOK, mf, err)
}

func (h *handler) RemoveSnapshot(w http.ResponseWriter, r *http.Request, ref string) {
	if err := h.Manager.RemoveSnapshot(r.Context(), ref); err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *handler) snapshot(w http.ResponseWriter, r *http.Request, status int, mf snapshot.Manifest, err error) {
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, r, status, h.viewSnapshot(mf))
}

func (h *handler) viewSnapshot(mf snapshot.Manifest) apiv1.Snapshot {
	used, err := h.Manager.SnapshotUsed(mf)
	if err != nil {
		h.Log.Debug("measure a snapshot", "snapshot", mf.ID, "err", err) // removed meanwhile
	}
	v := apiv1.Snapshot{
		Id: mf.ID, Ref: mf.Ref(), Sandbox: mf.Sandbox, SandboxId: mf.SandboxID, Tag: optional(mf.Tag), Parent: optional(mf.Parent), CreatedAt: mf.CreatedAt,
		PausedMs: float64(mf.PausedFor.Microseconds()) / 1000, SizeBytes: mf.SizeBytes(), UsedBytes: used,
		Engine: mf.State.Engine, EngineVersion: mf.State.Version, Accelerator: mf.State.Accelerator, Cpu: mf.State.CPU,
		Arch: string(mf.Spec.Arch), Vcpus: mf.Spec.VCPUs, MemoryMib: mf.Spec.MemoryMiB, DiskMib: mf.Spec.DiskMiB, Image: mf.Spec.Image, ImageDigest: mf.Image.Digest,
		Kernel: optional(mf.Kernel.Release), KernelSha256: optional(mf.Kernel.SHA256), InitramfsSha256: optional(mf.Initrd.SHA256),
		Files: make([]apiv1.SnapshotFile, 0, len(mf.Files)),
	}
	for _, f := range mf.Files {
		v.Files = append(v.Files, apiv1.SnapshotFile{Path: f.Path, SizeBytes: f.SizeBytes, Sum: f.Sum})
	}
	return v
}

// createFrom makes a sandbox from a snapshot.
func (h *handler) createFrom(r *http.Request, req apiv1.CreateRequest, spec sandbox.Spec) (sandbox.Record, error) {
	for name, given := range map[string]bool{
		"image": req.Image != nil, "arch": req.Arch != nil, "engine": req.Engine != nil, "agent": req.Agent != nil, "vcpus": req.Vcpus != nil,
		"memory_mib": req.MemoryMib != nil, "disk_mib": req.DiskMib != nil, "project": req.Project != nil, "volumes": req.Volumes != nil,
	} {
		if given {
			return sandbox.Record{}, sandbox.Errorf(sandbox.Invalid, "leave it out", "%s is what it is in the snapshot, and cannot be given with from_snapshot", name)
		}
	}
	return h.Manager.CreateFrom(r.Context(), spec, *req.FromSnapshot)
}

func viewParent(rec sandbox.Record) *apiv1.Parent {
	if rec.Parent == nil {
		return nil
	}
	return &apiv1.Parent{Sandbox: rec.Parent.Sandbox, SandboxId: rec.Parent.SandboxID, Snapshot: optional(rec.Parent.Snapshot)}
}

// restores is what the next start goes on from.
func restores(rec sandbox.Record) *string {
	if rec.Restore == nil {
		return nil
	}
	return optional(string(rec.Restore.Kind))
}
