package httpapi

import (
	"net/http"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

func (h *handler) ListImageUses(w http.ResponseWriter, r *http.Request) {
	uses, problems := h.Manager.ImageUses()
	list := apiv1.ImageUseList{Uses: make([]apiv1.ImageUse, 0, len(uses)), Problems: optional(problems)}
	for _, u := range uses {
		view := apiv1.ImageUse{Digest: u.Digest, Sandbox: u.Sandbox}
		if u.State != "" {
			state := string(u.State)
			view.State = &state
		}
		view.Snapshot = optional(u.Snapshot)
		list.Uses = append(list.Uses, view)
	}
	h.reply(w, r, http.StatusOK, list)
}
