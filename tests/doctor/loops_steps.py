"""Loops about clipping, GradScalers, several optimizers and their weights, faulty ones and correct ones."""

import copy

import torch
import torch.nn.functional as F
from case_parts import (
    CLASSES,
    SIZE,
    Classifier,
    adam,
    batches,
    correct,
    faulty,
    loader,
    network,
    rows,
    sgd,
    stream,
)
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

# clipping-misplaced


@faulty("clipping-misplaced", style="after step(), imported by name", evidence=("17 times", "clip_grad_norm_()"))
def clipped_after_step(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        clip_grad_norm_(model.parameters(), 0.5)  # <- clipping-misplaced
    return model, optimizer


@faulty("clipping-misplaced", style="values, after step(), class, gradients zeroed in place")
def values_clipped_after_step(folder):
    class Trainer:
        def __init__(self):
            self.model = nn.LSTM(SIZE, CLASSES, batch_first=True)
            self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=1e-3)

        def optimize(self, loss):
            self.model.zero_grad(set_to_none=False)
            loss.backward()
            self.optimizer.step()
            clip_grad_value_(self.model.parameters(), 0.1)  # <- clipping-misplaced

        def train(self):
            for x, y in loader():
                self.optimize(F.cross_entropy(self.model(x[:, None])[0][:, -1], y))

    trainer = Trainer()
    for _ in range(3):
        trainer.train()
    return trainer.model, trainer.optimizer


@faulty("clipping-misplaced", style="between zero_grad() and backward()", evidence="before backward()")
def clipped_before_backward(folder):
    model = Classifier()
    optimizer = sgd(model, momentum=0.9)
    data, i = stream(), 0
    while i < 14:
        x, y = next(data)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)  # <- clipping-misplaced
        loss.backward()
        optimizer.step()
        i += 1
    return model, optimizer


@faulty("clipping-misplaced", style="first in the iteration, gradients zeroed in place, a list of parameters")
def clipped_first(folder):
    model = network()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    for x, y in batches() * 2:
        optimizer.zero_grad(set_to_none=False)
        nn.utils.clip_grad_norm_(parameters, 0.5, norm_type=1)  # <- clipping-misplaced
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@faulty("clipping-misplaced", style="GradScaler without unscale_()", evidence=("max_norm=1", "12 times"))
def scaled_gradients_clipped(folder):
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu")
    for x, y in batches() * 2:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        clip_grad_norm_(model.parameters(), 1.0)  # <- clipping-misplaced
        scaler.step(optimizer)
        scaler.update()
    return model, optimizer


@faulty("clipping-misplaced", style="GradScaler, unscale_() after the clipping, accumulation")
def unscaled_after_clipping(folder):
    model = Classifier()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for i, (x, y) in enumerate(batches() * 2):
        loss = F.cross_entropy(model(x), y) / 2
        scaler.scale(loss).backward()
        if (i + 1) % 2 == 0:
            clip_grad_norm_(model.parameters(), 0.5)  # <- clipping-misplaced
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return model, optimizer


@faulty("clipping-misplaced", style="after each micro-batch", evidence="each of the 3 micro-batches")
def clipped_each_micro_batch(folder):
    model = network()
    optimizer = sgd(model)
    for i, (x, y) in enumerate(batches() * 3, 1):
        (F.cross_entropy(model(x), y) / 3).backward()
        clip_grad_norm_(model.parameters(), 0.2)  # <- clipping-misplaced
        if i % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizer


@faulty("clipping-misplaced", style="a GAN whose critic is clipped after its step")
def critic_clipped_after_step(folder):
    generator, critic = nn.Linear(4, SIZE), nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 1))
    for_g, for_d = torch.optim.Adam(generator.parameters(), lr=1e-4), torch.optim.Adam(critic.parameters(), lr=1e-4)
    for x, _ in batches() * 2:
        fake = generator(torch.randn(len(x), 4))
        for_d.zero_grad()
        (critic(fake.detach()).mean() - critic(x).mean()).backward()
        for_d.step()
        clip_grad_norm_(critic.parameters(), 1.0)  # <- clipping-misplaced
        for_g.zero_grad()
        (-critic(fake).mean()).backward()
        clip_grad_norm_(generator.parameters(), 1.0)
        for_g.step()
    return generator, critic, for_g, for_d


@faulty("zero-grad-before-step", style="cleared before the clipping and the step", evidence="Consequence (clipping-mis")
def cleared_before_clipping(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 2:
        F.cross_entropy(model(x), y).backward()
        optimizer.zero_grad()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()  # <- zero-grad-before-step
    return model, optimizer


@correct("clipping-misplaced", "repeated-step", style="in place, by norm and then by value, imported by name")
def clipped_in_place(folder):
    model = network()
    optimizer = adam(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()
    return model, optimizer


@correct("clipping-misplaced", style="the norm measured before, between and after")
def norm_measured(folder):
    model = network()
    optimizer = sgd(model)
    norms = []
    for x, y in batches() * 2:
        optimizer.zero_grad()
        norms.append(float(clip_grad_norm_(model.parameters(), float("inf"))))
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        norms.append(float(clip_grad_norm_(model.parameters(), 1e9)))
    return model, optimizer, norms


@correct("clipping-misplaced", "scaler-misused", style="unscale_(), clipping, an iterator of batches")
def clipped_after_unscale(folder):
    model = Classifier()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=512.0)
    for x, y in batches() * 2:
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return model, optimizer


@correct("clipping-misplaced", "scaler-misused", style="the limit multiplied by the factor")
def limit_scaled_too(folder):
    model = Classifier()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=512.0)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        clip_grad_norm_(model.parameters(), 1.0 * scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
    return model, optimizer


@correct(
    "clipping-misplaced", "zero-grad-before-step", style="each sample clipped by itself and collected, as in DP-SGD"
)
def clipped_by_samples(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in batches()[:4]:
        sums = [torch.zeros_like(p) for p in model.parameters()]
        for row, label in zip(x[:6], y[:6], strict=True):
            model.zero_grad()
            F.cross_entropy(model(row[None]), label[None]).backward()
            clip_grad_norm_(model.parameters(), 0.5)
            for total, p in zip(sums, model.parameters(), strict=True):
                total += p.grad
        for total, p in zip(sums, model.parameters(), strict=True):
            p.grad = total / 6
        optimizer.step()
    return model, optimizer


@correct("clipping-misplaced", "repeated-step", style="one clipping for both optimizers, between their steps")
def clipped_between_two_steps(folder):
    model = Classifier()
    first, second = sgd(model.base), adam(model.head)
    for x, y in batches() * 2:
        first.zero_grad()
        second.zero_grad()
        F.cross_entropy(model(x), y).backward()
        first.step()
        clip_grad_norm_(model.parameters(), 0.5)
        second.step()
    return model, first, second


@correct("clipping-misplaced", style="PPO-like: a value network that is clipped in some iterations only")
def clipped_by_turns(folder):
    policy, value = network(), nn.Linear(SIZE, 1)
    both = [*policy.parameters(), *value.parameters()]
    for_p, for_v = adam(policy), adam(value)
    for i, (x, y) in enumerate(batches() * 2):
        for_p.zero_grad()
        F.cross_entropy(policy(x), y).backward()
        clip_grad_norm_(both, 0.5)
        for_p.step()
        if i % 3 == 0:
            for_v.zero_grad()
            value(x).square().mean().backward()
            clip_grad_norm_(both, 0.5)
            for_v.step()
    return policy, value, for_p, for_v


# scaler-misused


@faulty("scaler-misused", style="update() is missing", raises=RuntimeError, evidence="update() had not been called")
def never_updated(folder):
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)  # <- scaler-misused


@faulty("scaler-misused", style="update() is missing, and unscale_() notices it, class", raises=RuntimeError)
def never_updated_but_unscaled(folder):
    class Engine:
        def __init__(self):
            self.model = Classifier()
            self.optimizer, self.scaler = adam(self.model), torch.amp.GradScaler("cpu", init_scale=256.0)

        def __call__(self, loss):
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), 1.0)
            self.scaler.step(self.optimizer)  # <- scaler-misused

    engine = Engine()
    for x, y in loader():
        engine(F.cross_entropy(engine.model(x), y))


@faulty("scaler-misused", style="optimizer.step() by itself", evidence="12 times")
def stepped_without_the_scaler(folder):
    model = network()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        optimizer.step()  # <- scaler-misused
    return model, optimizer


@faulty("scaler-misused", style="optimizer.step() by itself, and then update()", raises=AssertionError)
def stepped_without_the_scaler_and_updated(folder):
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        (scaler.scale(F.cross_entropy(model(x), y)) / 2).backward()
        optimizer.step()  # <- scaler-misused
        scaler.update()


@faulty("scaler-misused", style="the scaled loss is thrown away", evidence="the loss had not been scaled")
def scaled_loss_thrown_away(folder):
    model = Classifier()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss)
        loss.backward()
        scaler.step(optimizer)  # <- scaler-misused
        scaler.update()
    return model, optimizer


@faulty("scaler-misused", style="scale() is missing", raises=AssertionError)
def never_scaled(folder):
    model = Classifier()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in loader():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        scaler.step(optimizer)  # <- scaler-misused
        scaler.update()


@faulty("scaler-misused", style="unscale_() in each micro-batch", raises=RuntimeError, evidence="called twice")
def unscaled_each_micro_batch(folder):
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for i, (x, y) in enumerate(batches() * 2, 1):
        scaler.scale(F.cross_entropy(model(x), y) / 2).backward()
        scaler.unscale_(optimizer)  # <- scaler-misused
        if i % 2 == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


@faulty("scaler-misused", style="update() in each micro-batch", raises=AssertionError)
def updated_each_micro_batch(folder):
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for i, (x, y) in enumerate(batches() * 2, 1):
        scaler.scale(F.cross_entropy(model(x), y) / 2).backward()
        if i % 2 == 0:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()  # <- scaler-misused


@faulty("scaler-misused", style="update() between the steps of two optimizers")
def updated_between_two_steps(folder):
    one, two = network(), network()
    first, second = sgd(one), sgd(two)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in batches() * 2:
        first.zero_grad()
        second.zero_grad()
        scaler.scale(F.cross_entropy(one(x), y) + F.cross_entropy(two(x), y)).backward()
        scaler.step(first)
        scaler.update()  # <- scaler-misused
        scaler.step(second)
        scaler.update()
    return one, two, first, second


@faulty("scaler-misused", style="a new scaler in each epoch, function")
def scaler_each_epoch(folder):
    model = network()
    optimizer = sgd(model)

    def train_one_epoch():
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)  # <- scaler-misused
        for x, y in batches():
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()

    for _ in range(4):
        train_one_epoch()
    return model, optimizer


@correct("scaler-misused", "clipping-misplaced", style="a scaler that is not enabled, with nothing of it in order")
def scaler_not_enabled(folder):
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", enabled=False)
    for i, (x, y) in enumerate(batches() * 2):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        (scaler.scale(loss) if i % 2 else loss).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer) if i % 3 else optimizer.step()
    return model, optimizer


@correct("scaler-misused", "gradients-leak-in", style="a GAN with one scaler, updated once")
def scaler_for_a_gan(folder):
    generator, critic = nn.Linear(4, SIZE), nn.Linear(SIZE, 1)
    for_g, for_d = torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, _ in batches() * 2:
        fake = generator(torch.randn(len(x), 4))
        for_d.zero_grad()
        scaler.scale(critic(fake.detach()).mean() - critic(x).mean()).backward()
        scaler.step(for_d)
        for_g.zero_grad()
        scaler.scale(-critic(fake).mean()).backward()
        scaler.step(for_g)
        scaler.update()
    return generator, critic, for_g, for_d


@correct("scaler-misused", style="the factor removed by hand, the optimizer steps by itself")
def unscaled_by_hand(folder):
    model = network()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        for p in model.parameters():
            p.grad.data.div_(scaler.get_scale())
        optimizer.step()
    return model, optimizer


@correct("scaler-misused", style="several losses scaled in a list and added")
def scaled_losses_added(folder):
    model = Classifier()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=256.0)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        logits = model(x)
        sum(scaler.scale([F.cross_entropy(logits, y), 0.01 * logits.square().mean()])).backward()
        scaler.step(optimizer)
        scaler.update()
    return model, optimizer


@correct("scaler-misused", "optimizer-recreated", style="a new scaler for each fold, with a model and an optimizer")
def scaler_for_each_fold(folder):
    left = []
    for _ in range(4):
        model = network()
        optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=256.0)
        for x, y in batches():
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        left += [model, optimizer]
    return left


@correct("scaler-misused", style="one scaler for each optimizer")
def scaler_for_each_optimizer(folder):
    model = Classifier()
    pairs = [(sgd(part), torch.amp.GradScaler("cpu", init_scale=256.0)) for part in (model.base, model.head)]
    for i, (x, y) in enumerate(batches() * 2):
        optimizer, scaler = pairs[i % 2]
        model.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    return model, pairs[0][0], pairs[1][0]


# gradients-leak-in


def _gan():
    generator, critic = nn.Linear(4, SIZE), nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU(), nn.Linear(16, 1))
    return generator, critic, torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())


@faulty(
    "gradients-leak-in", style="a GAN whose critic is cleared only after its step", evidence=("Sequential", "12 of 12")
)
def generator_leaks(folder):
    generator, critic, for_g, for_d = _gan()
    for x, _ in batches() * 2:
        fake = generator(torch.randn(len(x), 4))
        F.softplus(-critic(fake)).mean().backward()
        for_g.step()
        for_g.zero_grad()
        loss = F.softplus(-critic(x)).mean() + F.softplus(critic(fake.detach())).mean()
        loss.backward()  # <- gradients-leak-in
        for_d.step()
        for_d.zero_grad()
    return generator, critic, for_g, for_d


@faulty("gradients-leak-in", style="zero_grad() of both at the beginning, two losses of the critic, class")
def both_cleared_at_the_beginning(folder):
    class Gan:
        def __init__(self):
            self.generator, self.critic, self.for_g, self.for_d = _gan()

        def train_generator(self, fake):
            self.for_g.zero_grad()
            self.for_d.zero_grad()
            F.softplus(-self.critic(fake)).mean().backward()
            self.for_g.step()

        def train_critic(self, real, fake):
            F.softplus(-self.critic(real)).mean().backward()  # <- gradients-leak-in
            F.softplus(self.critic(fake)).mean().backward()
            self.for_d.step()

    gan = Gan()
    for x, _ in batches() * 2:
        fake = gan.generator(torch.randn(len(x), 4))
        gan.train_generator(fake)
        gan.train_critic(x, fake.detach())
    return gan.generator, gan.critic, gan.for_g, gan.for_d


@faulty("gradients-leak-in", style="actor and critic: the actor's loss leaves gradients in the critic")
def actor_leaks(folder):
    actor, critic = nn.Linear(SIZE, 2), nn.Linear(SIZE + 2, 1)
    for_a, for_c = torch.optim.Adam(actor.parameters()), torch.optim.Adam(critic.parameters())
    reward = torch.randn(16, 1)
    for x, _ in batches() * 3:
        action = actor(x)
        value = critic(torch.cat([x, action.detach()], 1))
        loss = F.mse_loss(value, reward[: len(x)])
        loss.backward()  # <- gradients-leak-in
        for_c.step()
        for_c.zero_grad()
        for_a.zero_grad()
        (-critic(torch.cat([x, action], 1)).mean()).backward()
        for_a.step()
    return actor, critic, for_a, for_c


@correct("gradients-leak-in", "missing-zero-grad", style="a GAN whose critic is cleared right before its loss")
def critic_cleared_in_time(folder):
    generator, critic, for_g, for_d = _gan()
    for x, _ in batches() * 2:
        fake = generator(torch.randn(len(x), 4))
        for_g.zero_grad()
        F.softplus(-critic(fake)).mean().backward()
        for_g.step()
        for_d.zero_grad()
        F.softplus(-critic(x)).mean().backward()
        F.softplus(critic(fake.detach())).mean().backward()
        for_d.step()
    return generator, critic, for_g, for_d


@correct("gradients-leak-in", style="a GAN whose critic is frozen for the generator's loss")
def critic_frozen_for_the_generator(folder):
    generator, critic, for_g, for_d = _gan()
    for x, _ in batches() * 2:
        fake = generator(torch.randn(len(x), 4))
        critic.requires_grad_(False)
        F.softplus(-critic(fake)).mean().backward()
        for_g.step()
        for_g.zero_grad()
        critic.requires_grad_(True)
        (F.softplus(-critic(x)).mean() + F.softplus(critic(fake.detach())).mean()).backward()
        for_d.step()
        for_d.zero_grad()
    return generator, critic, for_g, for_d


@correct("gradients-leak-in", "zero-grad-before-step", style="two losses for a shared encoder, one head steps between")
def losses_added_in_the_encoder(folder):
    encoder, one, two = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES), nn.Linear(16, 1)
    whole, first, second = sgd(encoder), sgd(one), sgd(two)
    for x, y in batches() * 2:
        for optimizer in (whole, first, second):
            optimizer.zero_grad()
        F.cross_entropy(one(encoder(x).relu()), y).backward()
        first.step()
        two(encoder(x).relu()).square().mean().backward()
        second.step()
        whole.step()
    return encoder, one, two, whole, first, second


@correct("gradients-leak-in", "accumulation-not-scaled", style="two optimizers with different periods")
def different_periods(folder):
    encoder, head = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES)
    often, rarely = sgd(encoder), sgd(head)
    for i, (x, y) in enumerate(batches() * 2, 1):
        (F.cross_entropy(head(encoder(x).relu()), y) / 3).backward()
        often.step()
        often.zero_grad()
        if i % 3 == 0:
            rarely.step()
            rarely.zero_grad()
    return encoder, head, often, rarely


@correct("gradients-leak-in", "missing-zero-grad", "accumulation-not-scaled", style="after DCGAN's example")
def dcgan_by_two_backward_calls(folder):
    net_g, net_d, opt_g, opt_d = _gan()
    criterion = nn.BCEWithLogitsLoss()
    for x, _ in batches() * 2:
        label = torch.ones(len(x), 1)
        net_d.zero_grad()
        criterion(net_d(x), label).backward()
        fake = net_g(torch.randn(len(x), 4))
        label.fill_(0)
        criterion(net_d(fake.detach()), label).backward()
        opt_d.step()
        net_g.zero_grad()
        label.fill_(1)
        criterion(net_d(fake), label).backward()
        opt_g.step()
    return net_g, net_d, opt_g, opt_d


@correct("gradients-leak-in", "clipping-misplaced", style="a WGAN: five steps of the critic, weights clamped")
def wgan_with_a_sequential_critic(folder):
    generator, critic, for_g, for_d = _gan()
    for i, (x, _) in enumerate(batches() * 3):
        for_d.zero_grad()
        (critic(generator(torch.randn(len(x), 4)).detach()).mean() - critic(x).mean()).backward()
        for_d.step()
        for p in critic.parameters():
            p.data.clamp_(-0.05, 0.05)
        if i % 5 == 4:
            for_g.zero_grad()
            (-critic(generator(torch.randn(len(x), 4))).mean()).backward()
            for_g.step()
    return generator, critic, for_g, for_d


@correct("gradients-leak-in", "missing-zero-grad", style="an adversarial autoencoder with three optimizers")
def adversarial_autoencoder(folder):
    encoder, decoder, critic = nn.Linear(SIZE, 4), nn.Linear(4, SIZE), nn.Linear(4, 1)
    for_e, for_d, for_c = adam(encoder), adam(decoder), adam(critic)
    for x, _ in batches() * 2:
        for optimizer in (for_e, for_d, for_c):
            optimizer.zero_grad()
        F.mse_loss(decoder(encoder(x)), x).backward()
        for_e.step()
        for_d.step()
        for optimizer in (for_e, for_d, for_c):
            optimizer.zero_grad()
        (critic(encoder(x).detach()).mean() - critic(torch.randn(len(x), 4)).mean()).backward()
        for_c.step()
        for optimizer in (for_e, for_d, for_c):
            optimizer.zero_grad()
        (-critic(encoder(x)).mean()).backward()
        for_e.step()
    return encoder, decoder, critic, for_e, for_d, for_c


@correct("gradients-leak-in", style="two networks that learn from each other, both losses before both steps")
def mutual_learning(folder):
    one, two = network(), network()
    first, second = sgd(one), sgd(two)
    for x, y in batches() * 2:
        first.zero_grad()
        second.zero_grad()
        a, b = one(x), two(x)
        (F.cross_entropy(a, y) + 0.1 * F.mse_loss(a, b)).backward(retain_graph=True)
        (F.cross_entropy(b, y) + 0.1 * F.mse_loss(b, a)).backward()
        first.step()
        second.step()
    return one, two, first, second


@correct("gradients-leak-in", "repeated-step", style="SAC: critic, actor and temperature, cleared one by one")
def soft_actor_critic(folder):
    actor, critic, log_alpha = nn.Linear(SIZE, 2), nn.Linear(SIZE + 2, 1), torch.zeros(1, requires_grad=True)
    for_a, for_c, for_t = adam(actor), adam(critic), torch.optim.Adam([log_alpha], lr=1e-3)
    for x, _ in batches() * 2:
        loss = F.mse_loss(critic(torch.cat([x, torch.randn(len(x), 2)], 1)), torch.ones(len(x), 1))
        for_c.zero_grad()
        loss.backward()
        for_c.step()
        action = actor(x)
        entropy = action.square().sum(1, keepdim=True)
        for_a.zero_grad()
        (log_alpha.exp().detach() * entropy - critic(torch.cat([x, action], 1))).mean().backward()
        for_a.step()
        for_t.zero_grad()
        (log_alpha * (entropy.detach() - 1)).mean().backward()
        for_t.step()
    return actor, critic, log_alpha, for_a, for_c, for_t


# optimizer-recreated


@faulty("optimizer-recreated", style="in a function called once an epoch", evidence=("5 Adam", "4 parameters"))
def made_each_epoch(folder):
    model, data = network(), loader()

    def train_one_epoch():
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # <- optimizer-recreated
        for x, y in data:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return optimizer

    for _ in range(5):
        last = train_one_epoch()
    return model, last


@faulty("optimizer-recreated", style="for each batch, with momentum")
def made_each_batch(folder):
    model = Classifier()
    for x, y in batches() * 2:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)  # <- optimizer-recreated
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@faulty("optimizer-recreated", style="in a method of a class, with an optimizer of one's own")
def own_optimizer_made_each_epoch(folder):
    class Warm(torch.optim.AdamW):
        def __init__(self, parameters, lr=1e-3):
            super().__init__(parameters, lr=lr, weight_decay=0.1)

    class Client:
        def __init__(self):
            self.model = network()

        def fit(self, data):
            optimizer = Warm(self.model.parameters())  # <- optimizer-recreated
            for i in range(len(data)):
                x, y = data[i]
                self.model.zero_grad()
                F.cross_entropy(self.model(x), y).backward()
                optimizer.step()

    client = Client()
    for _ in range(4):
        client.fit(batches())
    return client.model


@correct("optimizer-recreated", style="plain SGD, which remembers nothing, for each batch")
def plain_sgd_made_again(folder):
    model = network()
    for x, y in batches() * 2:
        optimizer = sgd(model)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct(
    "optimizer-recreated", "optimizer-of-another-model", style="federated: a client starts from the server's weights"
)
def federated(folder):
    server, client = network(), network()
    data = batches()
    for _ in range(4):
        states = []
        for part in (data[:3], data[3:]):
            with torch.no_grad():
                for p, q in zip(client.parameters(), server.parameters(), strict=True):
                    p.data.copy_(q.data)
            optimizer = torch.optim.Adam(client.parameters(), lr=1e-2)
            for x, y in part:
                optimizer.zero_grad()
                F.cross_entropy(client(x), y).backward()
                optimizer.step()
            states.append(copy.deepcopy(client.state_dict()))
        server.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    return server, client


@correct("optimizer-recreated", style="the state of the last optimizer is loaded into the next one")
def state_carried_over(folder):
    model, state = network(), None
    for _ in range(5):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        if state is not None:
            optimizer.load_state_dict(state)
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        state = optimizer.state_dict()
    return model, optimizer


@correct("optimizer-recreated", style="three phases of several epochs each, with lower learning rates")
def phases(folder):
    model = network()

    def fit(lr):
        optimizer = adam(model, lr)
        for _ in range(2):
            for x, y in loader():
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        return optimizer

    return model, [fit(lr) for lr in (1e-2, 1e-3, 1e-4)]


@correct("optimizer-recreated", style="tasks one after another, several epochs each")
def tasks_one_after_another(folder):
    model = network()
    x, y = rows()
    for start in (0, 24, 48, 64):
        optimizer = adam(model)
        data = torch.utils.data.TensorDataset(x[start : start + 24], y[start : start + 24])
        for _ in range(3):
            for a, b in torch.utils.data.DataLoader(data, 8):
                optimizer.zero_grad()
                F.cross_entropy(model(a), b).backward()
                optimizer.step()
    return model, optimizer


@correct("optimizer-recreated", style="a stream of tasks, each seen once")
def tasks_seen_once(folder):
    model = network()
    x, y = rows()
    for task in range(5):
        optimizer = adam(model)
        data = torch.utils.data.TensorDataset(x[16 * task : 16 * task + 16], y[16 * task : 16 * task + 16])
        for a, b in torch.utils.data.DataLoader(data, 4):
            optimizer.zero_grad()
            F.cross_entropy(model(a), b).backward()
            optimizer.step()
    return model, optimizer


@correct("optimizer-recreated", "parameters-not-optimized", style="more layers for each new optimizer")
def unfrozen_by_steps(folder):
    model = nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    model.requires_grad_(False)
    for k in (4, 2, 0):
        model[k].requires_grad_(True)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model, optimizer


# parameters-not-optimized: whole modules, lists, frozen weights


@faulty("parameters-not-optimized", style="a decoder of its own left out", evidence="All 136 numbers of Linear")
def decoder_left_out(folder):
    encoder, decoder = nn.Linear(SIZE, 16), nn.Linear(16, SIZE)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)  # <- parameters-not-optimized
    for x, _ in batches() * 2:
        optimizer.zero_grad()
        F.mse_loss(decoder(encoder(x).relu()), x).backward()
        optimizer.step()
    return encoder, decoder, optimizer


@faulty("parameters-not-optimized", style="a class whose second network is left out, with validation")
def second_network_left_out(folder):
    class System:
        def __init__(self):
            self.embed, self.classify = nn.Sequential(nn.Linear(SIZE, 16), nn.Tanh()), nn.Linear(16, CLASSES)
            self.optimizer = torch.optim.AdamW(self.classify.parameters())  # <- parameters-not-optimized

        def step(self, x, y):
            loss = F.cross_entropy(self.classify(self.embed(x)), y)
            self.embed.zero_grad()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    system = System()
    for _ in range(3):
        for x, y in loader():
            system.step(x, y)
        system.embed.eval(), system.classify.eval()
        with torch.no_grad():
            system.classify(system.embed(rows()[0]))
        system.embed.train(), system.classify.train()
    return system.embed, system.classify, system.optimizer


@faulty("parameters-not-optimized", style="layers in a dictionary", evidence=("`gates.in.weight`", "dictionary"))
def layers_in_a_dictionary(folder):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gates = {"in": nn.Linear(SIZE, SIZE), "out": nn.Linear(SIZE, SIZE)}
            self.head = nn.Linear(SIZE, CLASSES)

        def forward(self, x):
            return self.head(self.gates["out"](self.gates["in"](x).tanh()).sigmoid() * x)

    model = Gated()
    optimizer = torch.optim.Adam(model.parameters())  # <- parameters-not-optimized
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, list(model.gates.values()), optimizer


@faulty("parameters-not-optimized", style="only frozen weights in the optimizer", evidence=("frozen", "`1.weight`"))
def only_frozen_optimized(folder):
    model = nn.Sequential(nn.Linear(SIZE, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))
    for layer in model:
        layer.requires_grad_(isinstance(layer, nn.BatchNorm1d))
    weights = [*model[0].parameters(), *model[3].parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.05)  # <- parameters-not-optimized
    for x, y in batches() * 2:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct("parameters-not-optimized", style="a fixed network in train mode that compares features of output and target")
def features_compared(folder):
    features, model = nn.Sequential(nn.Linear(SIZE, 6), nn.ReLU()), nn.Linear(SIZE, SIZE)
    optimizer = adam(model)
    for x, _ in batches() * 2:
        loss = F.mse_loss(features(model(x)), features(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return features, model, optimizer


@correct("parameters-not-optimized", style="a trained body in eval mode, only the head in the optimizer")
def body_frozen_by_omission(folder):
    body, head = nn.Sequential(nn.Linear(SIZE, 16), nn.ReLU()), nn.Linear(16, CLASSES)
    body.eval()
    optimizer = sgd(head)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(head(body(x)), y).backward()
        optimizer.step()
    return body, head, optimizer


@correct("parameters-not-optimized", "missing-step", style="a second optimizer that steps only at the end")
def second_optimizer_at_the_end(folder):
    one, two = nn.Linear(SIZE, 16), nn.Linear(16, CLASSES)
    first = sgd(one)
    for i, (x, y) in enumerate(batches() * 2):
        one.zero_grad()
        two.zero_grad()
        F.cross_entropy(two(one(x).relu()), y).backward()
        first.step()
        if i == 10:
            second = sgd(two)
    second.step()
    return one, two, first, second


@correct("parameters-not-optimized", style="layers in a list that are registered one by one too")
def listed_and_registered(folder):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, CLASSES)
            self.layers = [self.one, self.two]

        def forward(self, x):
            return self.layers[1](self.layers[0](x).relu())

    model = Deep()
    optimizer = sgd(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


# zero-grad-before-step and missing-zero-grad inside an accumulation


@faulty("missing-zero-grad", style="an accumulation that steps each time", evidence=("every 3 iterations", "12 of 18"))
def stepped_inside_an_accumulation(folder):
    model = network()
    optimizer = sgd(model, 0.01)
    for i, (x, y) in enumerate(batches() * 3):
        (F.cross_entropy(model(x), y) / 3).backward()  # <- missing-zero-grad
        optimizer.step()
        if (i + 1) % 3 == 0:
            optimizer.zero_grad()
    return model, optimizer


@faulty("zero-grad-before-step", style="cleared for each micro-batch", evidence="only the last micro-batch")
def cleared_each_micro_batch(folder):
    model = Classifier()
    optimizer = adam(model)
    for i, (x, y) in enumerate(batches() * 2):
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) / 3).backward()  # <- zero-grad-before-step
        if (i + 1) % 3 == 0:
            optimizer.step()
    return model, optimizer


@correct("missing-step", style="an optimizer only for its learning rates: the weights are changed through .data")
def optimizer_for_its_rates(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 2:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad.data, alpha=-group["lr"])
    return model


@correct(
    "zero-grad-before-step",
    "accumulation-not-scaled",
    style="PCGrad on one graph: the gradient of each task is taken and cleared, and their sum is assigned",
)
def gradients_of_one_graph_projected(folder):
    model = network()
    optimizer = sgd(model)
    for x, y in batches() * 2:
        logits = model(x)
        gradients = []
        for loss in (F.cross_entropy(logits, y), logits.square().mean()):
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        first, second = gradients
        if (product := first @ second) < 0:
            first = first - product / second.norm() ** 2 * second
        parts = (first + second).split([p.numel() for p in model.parameters()])
        for p, part in zip(model.parameters(), parts, strict=True):
            p.grad = part.view_as(p).clone()
        optimizer.step()
    return model, optimizer
