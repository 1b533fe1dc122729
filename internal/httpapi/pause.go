package httpapi

import (
	"net/http"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

func (h *handler) PauseSandbox(w http.ResponseWriter, r *http.Request, name apiv1.Name) {
	rec, err := h.Manager.Pause(r.Context(), name)
	h.sandbox(w, r, http.StatusOK, rec, err)
}

func (h *handler) UnpauseSandbox(w http.ResponseWriter, r *http.Request, name apiv1.Name) {
	rec, err := h.Manager.Unpause(r.Context(), name)
	h.sandbox(w, r, http.StatusOK, rec, err)
}
