package httpapi

import (
	"net/http"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

func (h *handler) ListTemplates(w http.ResponseWriter, r *http.Request) {
	list := []apiv1.Template{}
	for _, t := range h.Manager.Templates() {
		list = append(list, apiv1.Template{
			Id: t.ID, Image: t.Spec.Image, ImageDigest: t.Image.Digest, Engine: t.State.Engine, Arch: string(t.Spec.Arch), Vcpus: t.Spec.VCPUs,
			MemoryMib: t.Spec.MemoryMiB, Disks: len(t.State.Disks), Kernel: t.Kernel.Release, CreatedAt: t.CreatedAt, UsedAt: t.UsedAt, SizeBytes: t.AllocatedBytes,
		})
	}
	h.reply(w, r, http.StatusOK, list)
}

func (h *handler) RemoveTemplate(w http.ResponseWriter, r *http.Request, id string) {
	if err := h.Manager.RemoveTemplate(id); err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *handler) GetPool(w http.ResponseWriter, r *http.Request) {
	p := h.Manager.PoolStatus()
	view := apiv1.Pool{Size: p.Size, Max: p.Max, Images: []apiv1.PoolImage{}}
	if p.OnHold != "" {
		view.OnHold = &p.OnHold
	}
	for _, i := range p.Images {
		image := apiv1.PoolImage{Image: i.Image, Ready: i.Ready, Making: i.Making}
		if i.Err != nil {
			message := i.Err.Error()
			image.Error, image.RetryAt = &message, &i.RetryAt
		}
		view.Images = append(view.Images, image)
	}
	h.reply(w, r, http.StatusOK, view)
}
