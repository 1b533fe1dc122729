package httpapi

import (
	"net/http"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/manager"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func (h *handler) ListVolumes(w http.ResponseWriter, r *http.Request) {
	volumes, problems, err := h.Manager.Volumes()
	if err != nil {
		h.fail(w, r, err)
		return
	}
	list := apiv1.VolumeList{Volumes: make([]apiv1.Volume, 0, len(volumes)), Problems: optional(problems)}
	for _, v := range volumes {
		list.Volumes = append(list.Volumes, viewVolume(v))
	}
	h.reply(w, r, http.StatusOK, list)
}

func (h *handler) CreateVolume(w http.ResponseWriter, r *http.Request) {
	var req apiv1.CreateVolumeRequest
	if err := decode(r.Body, &req); err != nil {
		h.fail(w, r, err)
		return
	}
	v, err := h.Manager.CreateVolume(r.Context(), req.Name, or(req.SizeMib, sandbox.DefaultVolumeMiB))
	h.volume(w, r, http.StatusCreated, v, err)
}

func (h *handler) GetVolume(w http.ResponseWriter, r *http.Request, name string) {
	v, err := h.Manager.Volume(name)
	h.volume(w, r, http.StatusOK, v, err)
}

func (h *handler) RemoveVolume(w http.ResponseWriter, r *http.Request, name string) {
	if err := h.Manager.RemoveVolume(r.Context(), name); err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *handler) volume(w http.ResponseWriter, r *http.Request, status int, v manager.VolumeStatus, err error) {
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, r, status, viewVolume(v))
}

func viewVolume(v manager.VolumeStatus) apiv1.Volume {
	view := apiv1.Volume{
		Id: v.ID, Name: v.Name, SizeMib: v.SizeMiB, UsedBytes: v.UsedBytes, CreatedAt: v.CreatedAt,
		Sandboxes: make([]apiv1.VolumeUser, 0, len(v.Users)),
	}
	for _, u := range v.Users {
		view.Sandboxes = append(view.Sandboxes, apiv1.VolumeUser{Sandbox: u.Sandbox, Path: u.Path, ReadOnly: &u.ReadOnly, InUse: u.InUse()})
	}
	return view
}

// volumeMounts reads the volumes that a sandbox is to have.
func volumeMounts(list *[]apiv1.VolumeMount) []sandbox.VolumeMount {
	var mounts []sandbox.VolumeMount
	for _, v := range deref(list) {
		mounts = append(mounts, sandbox.VolumeMount{Volume: v.Volume, Path: v.Path, ReadOnly: deref(v.ReadOnly)})
	}
	return mounts
}

func viewVolumeMounts(mounts []sandbox.VolumeMount) *[]apiv1.VolumeMount {
	if len(mounts) == 0 {
		return nil
	}
	list := make([]apiv1.VolumeMount, 0, len(mounts))
	for _, v := range mounts {
		list = append(list, apiv1.VolumeMount{Volume: v.Volume, Path: v.Path, ReadOnly: &v.ReadOnly})
	}
	return &list
}
