package agent

import (
	"context"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/stats"
)

const kernelLog = "/dev/kmsg"

type statsService struct{ *service }

// Sample measures what is used now.
func (s statsService) Sample(context.Context, *guestv1.SampleRequest) (*guestv1.SampleResponse, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	return s.o.Stats.Sample()
}

// Watch tells of processes that the kernel kills.
func (s statsService) Watch(ctx context.Context, _ *guestv1.KernelEventsRequest, stream guestv1.Stats_WatchServer) error {
	if err := s.ready(); err != nil {
		return err
	}
	return stats.WatchOOM(ctx, kernelLog, func(k *guestv1.OOMKill) error {
		return stream.Send(&guestv1.KernelEvent{Event: &guestv1.KernelEvent_OomKill{OomKill: k}})
	})
}
