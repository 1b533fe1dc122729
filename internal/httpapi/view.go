package httpapi

import (
	"errors"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Error is err in the shape that the API sends: its text, and the kind and hint of the *sandbox.Error in its chain.
func Error(err error) apiv1.Error {
	body := apiv1.Error{Code: apiv1.ErrorCode(sandbox.KindOf(err)), Message: err.Error()}
	var e *sandbox.Error
	if errors.As(err, &e) {
		body.Hint = optional(e.Hint)
	}
	return body
}

func view(rec sandbox.Record) apiv1.Sandbox {
	v := apiv1.Sandbox{
		Id: rec.ID, Name: rec.Spec.Name, State: apiv1.SandboxState(rec.State), Reason: optional(rec.Reason),
		Arch: string(rec.Spec.Arch), Image: rec.Spec.Image, ImageDigest: rec.Image.Digest, Agent: optional(rec.Spec.Agent),
		Vcpus: rec.Spec.VCPUs, MemoryMib: rec.Spec.MemoryMiB, DiskMib: rec.Spec.DiskMiB, VsockCid: int64(rec.Spec.VsockCID),
		Project: optional(rec.Spec.Project), EngineAsked: optional(rec.Spec.Engine), Warnings: optional(rec.Warnings), Kernel: optional(rec.Kernel),
		CreatedAt: rec.CreatedAt, StartedAt: optionalTime(rec.StartedAt), FinishedAt: optionalTime(rec.FinishedAt),
	}
	if c := rec.Image.Config; c != nil {
		v.ImageConfig = &apiv1.ImageConfig{
			Env: optional(c.Env), WorkingDir: optional(c.WorkingDir), User: optional(c.User), Entrypoint: optional(c.Entrypoint), Cmd: optional(c.Cmd),
			StopSignal: optional(c.StopSignal), ExposedPorts: optional(c.ExposedPorts), Volumes: optional(c.Volumes),
		}
	}
	if rec.Spec.IdleTimeoutMs != 0 {
		v.IdleTimeoutMs = &rec.Spec.IdleTimeoutMs
	}
	v.IdleAction, v.Parent, v.Restores = optional(rec.Spec.IdleAction), viewParent(rec), restores(rec)
	v.Ports = viewPorts(rec)
	v.Volumes = viewVolumeMounts(rec.Spec.Volumes)
	if m := rec.Machine; m != nil {
		v.Engine, v.Accelerator, v.Pid = &m.Engine, &m.Accelerator, &m.PID
		v.EngineWhy, v.Confinement = optional(m.EngineWhy), optional(m.Confinement)
	}
	if rec.Instructions > 0 {
		n := int64(rec.Instructions)
		v.GuestInstructions = &n
	}
	if len(rec.Stages) > 0 {
		stages := make([]apiv1.Stage, len(rec.Stages))
		for i, s := range rec.Stages {
			stages[i] = apiv1.Stage{Name: s.Name, DurationMs: float64(s.Duration.Microseconds()) / 1000}
		}
		v.Stages = &stages
	}
	v.Hygiene = viewHygiene(rec.Hygiene)
	return v
}

func viewHygiene(h *sandbox.Hygiene) *apiv1.Hygiene {
	if h == nil {
		return nil
	}
	v := &apiv1.Hygiene{From: apiv1.HygieneFrom(h.From), At: h.At, Items: make([]apiv1.HygieneItem, len(h.Items))}
	for i, item := range h.Items {
		v.Items[i] = apiv1.HygieneItem{Name: item.Name, Result: apiv1.HygieneItemResult(item.Result), Reason: optional(item.Reason)}
	}
	return v
}

// optional is nil for what is empty, as the API leaves it out.
func optional[T string | []string](v T) *T {
	if len(v) == 0 {
		return nil
	}
	return &v
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func or[T any](p *T, otherwise T) T {
	if p != nil {
		return *p
	}
	return otherwise
}
