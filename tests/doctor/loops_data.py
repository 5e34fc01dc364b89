"""Loops about the data: repeated batches, sorted labels, and evaluation on the training data."""

import itertools

import torch
import torch.nn.functional as F
from case_parts import BATCH, SIZE, Classifier, accuracy, adam, correct, faulty, loader, network, rows, sgd
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, SubsetRandomSampler, TensorDataset

# same-batch-again


@faulty("same-batch-again", style="while loop over steps", evidence=("18 times", "6 batches in a fixed order"))
def new_iterator_at_each_step(folder):
    model = network()
    optimizer = adam(model)
    train_loader, step = loader(), 0
    while step < 18:
        x, y = next(iter(train_loader))  # <- same-batch-again
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        step += 1
    return model, optimizer


@faulty("same-batch-again", style="GAN that draws its real batch", evidence="began a new iterator")
def gan_with_the_same_real_batch(folder):
    generator, critic = nn.Linear(4, SIZE), nn.Sequential(nn.Linear(SIZE, 8), nn.ReLU(), nn.Linear(8, 1))
    for_generator, for_critic = adam(generator), adam(critic)
    data = loader()
    for _ in range(8):
        real = data.__iter__().__next__()[0]  # <- same-batch-again
        fake = generator(torch.randn(len(real), 4))
        for_critic.zero_grad()
        (critic(fake.detach()).mean() - critic(real).mean()).backward()
        for_critic.step()
        for_generator.zero_grad()
        (-critic(fake).mean()).backward()
        for_generator.step()
    return generator, for_generator


@faulty("same-batch-again", style="validation in a method")
def validated_on_its_first_batch(folder):
    class Trainer:
        def __init__(self):
            self.model = Classifier(dropout=0.2)
            self.optimizer = sgd(self.model)
            self.train, self.valid = loader(shuffle=True), loader(40, 8)

        def validate(self):
            self.model.eval()
            correct = 0.0
            with torch.no_grad():
                for _ in range(len(self.valid)):
                    batch = next(iter(self.valid))  # <- same-batch-again
                    correct += accuracy(self.model(batch[0]), batch[1])
            return correct / len(self.valid)

        def fit(self):
            for _ in range(2):
                self.model.train()
                for x, y in self.train:
                    self.optimizer.zero_grad()
                    F.cross_entropy(self.model(x), y).backward()
                    self.optimizer.step()
                self.validate()

    trainer = Trainer()
    trainer.fit()
    return trainer.model, trainer.optimizer


@correct("same-batch-again", style="one batch is learned by heart, on purpose")
def one_batch_by_heart(folder):
    model = network()
    optimizer = adam(model)
    x, y = next(iter(loader()))
    for _ in range(12):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct("same-batch-again", style="pictures of one batch, once an epoch")
def one_batch_shown_each_epoch(folder):
    model = network()
    optimizer = sgd(model)
    train_loader, test_loader = loader(shuffle=True), loader(40)
    shown = []
    for _ in range(5):
        x, _labels = next(iter(test_loader))
        for inputs, y in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), y).backward()
            optimizer.step()
        x, _labels = next(iter(test_loader))
        with torch.no_grad():
            shown.append(model(x)[:2])
    return model, optimizer, shown


@correct("same-batch-again", style="an iterator that starts again at its end")
def iterator_that_starts_again(folder):
    model = network()
    optimizer = sgd(model)
    data = loader()
    batches = iter(data)
    for _ in range(20):
        try:
            x, y = next(batches)
        except StopIteration:
            batches = iter(data)
            x, y = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


@correct("same-batch-again", style="a random batch at each step")
def random_batch_at_each_step(folder):
    model = network()
    optimizer = sgd(model)
    dataset = TensorDataset(*rows())
    random, one = DataLoader(dataset, BATCH, sampler=RandomSampler(dataset, replacement=True)), loader(16)
    for _ in range(10):
        (x, y), (x2, y2) = next(iter(random)), next(iter(one))
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + F.cross_entropy(model(x2), y2)).backward()
        optimizer.step()
    return model, optimizer


@correct("same-batch-again", "not-shuffled", style="a dataset that draws each row")
def rows_drawn_by_the_dataset(folder):
    class Drawn(Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            return torch.randn(SIZE), torch.randint(3, ())

    model = network()
    optimizer = sgd(model)
    data = DataLoader(Drawn(), 8)
    for _ in range(10):
        x, y = next(iter(data))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


# not-shuffled


def by_class():
    x, y = rows()
    order = y.argsort()
    return TensorDataset(x[order], y[order])


@faulty("not-shuffled", style="plain loop", evidence=("In 88 rows", "each of the 3 classes", "3 times"))
def sorted_by_class(folder):
    model = network()
    optimizer = sgd(model, 0.01)
    data = DataLoader(by_class(), 8)
    for _ in range(3):
        for x, y in data:  # <- not-shuffled
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model, optimizer


@faulty("not-shuffled", style="train function with a dictionary and a validation loop")
def sorted_by_class_in_dictionaries(folder):
    class Rows(Dataset):
        def __init__(self):
            self.rows = by_class()

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            x, y = self.rows[index]
            return {"pixels": x, "labels": int(y)}

    model = Classifier()
    optimizer = sgd(model, 0.01)
    train_loader, val_loader = DataLoader(Rows(), batch_size=16), loader(40)

    def train():
        model.train()
        for _, batch in enumerate(train_loader):  # <- not-shuffled
            loss = F.cross_entropy(model(batch["pixels"]), batch["labels"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    for _ in range(2):
        train()
        model.eval()
        with torch.no_grad():
            for x, y in val_loader:
                accuracy(model(x), y)
    return model, optimizer


@faulty("not-shuffled", style="manual updates after iter() and next()", evidence="2 times")
def sorted_by_class_with_next(folder):
    model = network()
    optimizer = adam(model)
    data = DataLoader(by_class(), 16, drop_last=True)
    for _ in range(2):
        batches = iter(data)  # <- not-shuffled
        for _ in range(len(data)):
            x, y = next(batches)
            optimizer.zero_grad()
            F.nll_loss(model(x).log_softmax(1), y).backward()
            optimizer.step()
    return model, optimizer


@correct("not-shuffled", style="sorted, and shuffled by the loader; validation in order")
def sorted_and_shuffled(folder):
    model = network()
    optimizer = sgd(model, 0.01)
    for _ in range(2):
        for x, y in DataLoader(by_class(), 8, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            for x, y in DataLoader(by_class(), 8):
                accuracy(model.eval()(x), y)
        model.train()
    return model, optimizer


@correct("not-shuffled", style="already in a random order")
def random_order_without_shuffle(folder):
    model = network()
    optimizer = sgd(model)
    data = loader()
    for _ in range(3):
        for x, y in data:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model, optimizer


@correct("not-shuffled", style="sorted, with one step for all batches")
def sorted_with_one_step_an_epoch(folder):
    model = network()
    optimizer = sgd(model)
    data = DataLoader(by_class(), 8)
    for _ in range(3):
        optimizer.zero_grad()
        for x, y in data:
            (F.cross_entropy(model(x), y) / len(data)).backward()
        optimizer.step()
    return model, optimizer


@correct("not-shuffled", style="a time series whose classes come back")
def classes_that_come_back(folder):
    model = network()
    optimizer = sgd(model)
    x, _ = rows()
    y = (torch.arange(len(x)) // 16) % 3
    data = DataLoader(TensorDataset(x, y), 8)
    for _ in range(3):
        for inputs, labels in data:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model, optimizer


# evaluated-on-training-data


@faulty("evaluated-on-training-data", style="plain loop", evidence=("3 evaluations", "`val_loader`"))
def validated_on_the_training_loader(folder):
    model = network()
    optimizer = sgd(model)
    train_loader, val_loader = loader(shuffle=True), loader(40)
    for _ in range(3):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        val_accuracy = 0.0
        with torch.no_grad():
            for x, y in train_loader:  # <- evaluated-on-training-data
                val_accuracy += accuracy(model(x), y)
        val_accuracy /= len(val_loader)
    return model, optimizer


@faulty("evaluated-on-training-data", style="the loader for validation is only passed in")
def loader_passed_in_and_never_used(folder):
    def fit(model, train_loader, valid_loader):
        optimizer = adam(model)
        for _ in range(2):
            model.train()
            for x, y in train_loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                outputs = [accuracy(model(x), y) for x, y in train_loader]  # <- evaluated-on-training-data
        return optimizer, outputs

    model = Classifier(dropout=0.1)
    return model, fit(model, loader(shuffle=True), loader(40))


@faulty("evaluated-on-training-data", style="evaluate() is called with the wrong loader")
def wrong_loader_passed(folder):
    model = network()
    optimizer = sgd(model)
    training, dev_loader = loader(), loader(40)  # noqa: F841 (that is the mistake)

    @torch.no_grad()
    def evaluate(data):
        model.eval()
        return sum(accuracy(model(x), y) for x, y in data) / len(data)  # <- evaluated-on-training-data

    for _ in range(3):
        model.train()
        for x, y in training:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        val_accuracy = evaluate(training)
    return model, optimizer, val_accuracy


@correct("evaluated-on-training-data", style="accuracy on both")
def accuracy_on_both(folder):
    model = network()
    optimizer = sgd(model)
    train_loader, val_loader = loader(shuffle=True), loader(40)
    for _ in range(2):
        for x, y in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            model.eval()
            for data in (train_loader, val_loader):
                sum(accuracy(model(x), y) for x, y in data) / len(val_loader)
            model.train()
    return model, optimizer


@correct("evaluated-on-training-data", style="training accuracy; the test comes later")
def training_accuracy_and_a_test_that_was_not_reached(folder):
    model = network()
    optimizer = sgd(model)
    train_loader, test_loader = loader(shuffle=True), loader(40)
    for epoch in range(3):
        for x, y in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            train_accuracy = sum(accuracy(model(x), y) for x, y in train_loader) / len(train_loader)
        if epoch == 50:
            sum(accuracy(model(x), y) for x, y in test_loader)
    return model, optimizer, train_accuracy


@correct("evaluated-on-training-data", style="one dataset, two samplers")
def folds_of_one_dataset(folder):
    dataset = TensorDataset(*rows())
    train_loader = DataLoader(dataset, BATCH, sampler=SubsetRandomSampler(range(64)))
    val_loader = DataLoader(dataset, BATCH, sampler=SubsetRandomSampler(range(64, 88)))
    model = network()
    optimizer = sgd(model)
    for _ in range(2):
        for x, y in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            val_accuracy = sum(accuracy(model(x), y) for x, y in val_loader) / len(val_loader)
    return model, optimizer, val_accuracy


@correct("evaluated-on-training-data", style="statistics of batch norm, then validation")
def statistics_over_the_training_data(folder):
    dataset = TensorDataset(*rows())
    train_loader = DataLoader(Subset(dataset, range(64)), BATCH, shuffle=True)
    val_loader = DataLoader(Subset(dataset, range(64, 88)), BATCH)
    model = network(nn.BatchNorm1d(16))
    optimizer = sgd(model)
    for _ in range(2):
        model.train()
        for x, y in itertools.islice(train_loader, 4):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            for x, _y in train_loader:
                model.train()(x)
            model.eval()
            val_accuracy = sum(accuracy(model(x), y) for x, y in val_loader) / len(val_loader)
    return model, optimizer, val_accuracy
