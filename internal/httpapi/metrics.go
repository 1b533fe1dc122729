package httpapi

import "net/http"

// GetMetrics writes the daemon's counters.
func (h *handler) GetMetrics(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := h.Manager.WriteMetrics(w); err != nil {
		h.Log.Debug("send metrics", "err", err)
	}
}
