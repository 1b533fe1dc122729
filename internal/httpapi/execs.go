package httpapi

import (
	"net/http"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// maxWait bounds how long a request waits for the end of a command.
const maxWait = time.Hour

func (h *handler) ListExecs(w http.ResponseWriter, r *http.Request, name apiv1.Name) {
	list, err := h.Manager.Execs(r.Context(), name)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	reply := apiv1.ExecList{Execs: make([]apiv1.ExecInfo, 0, len(list))}
	for _, info := range list {
		reply.Execs = append(reply.Execs, execView(info))
	}
	h.reply(w, r, http.StatusOK, reply)
}

func (h *handler) GetExec(w http.ResponseWriter, r *http.Request, name apiv1.Name, id apiv1.ExecID) {
	info, err := h.Manager.ExecInfo(r.Context(), name, id)
	h.exec(w, r, info, err)
}

func (h *handler) SignalExec(w http.ResponseWriter, r *http.Request, name apiv1.Name, id apiv1.ExecID, params apiv1.SignalExecParams) {
	if params.Signal < 1 || params.Signal > 64 {
		h.fail(w, r, sandbox.Errorf(sandbox.Invalid, "use 1 to 64", "%d is not the number of a signal", params.Signal))
		return
	}
	if err := h.Manager.SignalExec(r.Context(), name, id, uint32(params.Signal)); err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// WaitExec waits for the end of a command.
func (h *handler) WaitExec(w http.ResponseWriter, r *http.Request, name apiv1.Name, id apiv1.ExecID, params apiv1.WaitExecParams) {
	timeout := time.Duration(or(params.TimeoutMs, 60000)) * time.Millisecond
	if timeout < 0 || timeout > maxWait {
		h.fail(w, r, sandbox.Errorf(sandbox.Invalid, "use 0 to 3600000", "timeout_ms %d is out of range", timeout.Milliseconds()))
		return
	}
	info, err := h.Manager.WaitExec(r.Context(), name, id, timeout)
	h.exec(w, r, info, err)
}

func (h *handler) exec(w http.ResponseWriter, r *http.Request, info guestrpc.ExecInfo, err error) {
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, r, http.StatusOK, execView(info))
}

func execView(info guestrpc.ExecInfo) apiv1.ExecInfo {
	v := apiv1.ExecInfo{
		Id: info.ID, Pid: int(info.PID), Argv: append([]string{}, info.Argv...), User: info.User, Detached: info.Detached, Tty: info.Terminal,
		StartedAt: info.Started.UTC(),
	}
	if info.Ended.IsZero() {
		return v
	}
	v.EndedAt, v.Code, v.TimedOut, v.OomKilled = ptr(info.Ended.UTC()), ptr(int(info.Exited.Code)), ptr(info.Exited.TimedOut), ptr(info.Exited.OOMKilled)
	if info.Exited.Signal != 0 {
		v.Signal = ptr(int(info.Exited.Signal))
	}
	if info.Stayed {
		v.Stayed = &info.Stayed
	}
	return v
}
