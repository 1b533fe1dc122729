package httpapi

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
)

// CopiedTrailer is the trailer of an archive with what became of it, for clients that take trailers.
const CopiedTrailer = "Agentkernel-Copied"

// copyBuffer is how much of an archive the daemon holds, in bytes.
const copyBuffer = 256 << 10

// GetArchive passes on an archive from the guest. None of it is looked at: the client unpacks it, with the user's rights.
func (h *handler) GetArchive(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.GetArchiveParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		d, err := f.Pack(r.Context(), guestrpc.PackSpec{Path: params.Path, Name: deref(params.As), Follow: deref(params.Follow)})
		if err != nil {
			return err
		}
		defer d.Close()
		trailers := strings.Contains(strings.ToLower(r.Header.Get("TE")), "trailers")
		if trailers {
			w.Header().Set("Trailer", CopiedTrailer)
		}
		w.Header().Set("Content-Type", "application/x-tar")
		_, err = io.CopyBuffer(w, struct{ io.Reader }{d}, make([]byte, copyBuffer))
		if err != nil {
			h.Log.Debug("send an archive", "sandbox", name, "err", err)
			if !trailers || r.Context().Err() != nil {
				panic(http.ErrAbortHandler) // so that nobody takes it for whole
			}
		}
		if trailers {
			c := copiedView(d.Copied)
			if err != nil {
				c.Error = ptr(Error(err))
			}
			b, _ := json.Marshal(c) // of strings and numbers
			w.Header().Set(CopiedTrailer, string(b))
		}
		return nil
	})
}

// PutArchive passes an archive on to the guest.
func (h *handler) PutArchive(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.PutArchiveParams) {
	h.withFiles(w, r, name, func(f *guestrpc.Files) error {
		fullDuplex(w)
		copied, err := f.Unpack(r.Context(), params.Path, deref(params.Owner), r.Body)
		if err == nil {
			h.reply(w, r, http.StatusOK, copiedView(copied))
		}
		return err
	})
	drain(w, r)
}

// fullDuplex lets a handler answer before it has read the request's body, however much is still to come of it.
// What is then left of the body ends the connection, and the client is told so.
func fullDuplex(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).EnableFullDuplex()
}

// linger is how long a client that was answered before it had sent everything may take to notice.
const linger = 5 * time.Second

// drain is for the end of a handler that may have answered early. Were the connection closed with something unread in it, the
// client's next write would fail, and that can be all that it sees.
func drain(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	_ = c.Flush()
	if err := c.SetReadDeadline(time.Now().Add(linger)); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	_ = c.SetReadDeadline(time.Time{})
}

func copiedView(c guestrpc.Copied) apiv1.Copied {
	return apiv1.Copied{LeftOut: c.LeftOut, Warnings: optional(c.Warnings)}
}
